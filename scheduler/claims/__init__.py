"""Who holds how much of which host and SR: atomic, checked again at commit, in memory or in SQL."""
