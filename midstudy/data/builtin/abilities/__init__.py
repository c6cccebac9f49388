"""Conversations that teach and test abilities: spelling, counting, arithmetic, choices, chat, identity."""
