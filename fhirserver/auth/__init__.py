"""Who asks, and what they may do: principals, SMART scopes, the access decision, keys, tokens and secrets. No I/O, no
clock.
"""
