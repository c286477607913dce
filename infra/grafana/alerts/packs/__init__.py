"""The rules, a pack a file. Each exports RULES."""
