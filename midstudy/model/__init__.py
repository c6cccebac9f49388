"""Pythia (GPT-NeoX) in plain PyTorch: forward pass, loss, initialisation, and conversion from and to Hugging Face."""
