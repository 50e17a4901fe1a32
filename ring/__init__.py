"""Where everything belongs: topology -> partition -> devices. Pure; imports nothing of ours."""
