"""Pythia (GPT-NeoX) in plain PyTorch: forward pass, loss, initialisation, and exchange with Hugging Face."""
