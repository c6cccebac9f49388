"""How close two texts are as bags of tokens, and how much closer to a task a mix is than the control."""
