"""Pythia (GPT-NeoX) and the Llama family in plain PyTorch: forward pass, loss, initialisation, Hugging Face."""
