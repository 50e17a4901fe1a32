"""Processes, whatever they serve: started and watched, spoken to, what they log."""
