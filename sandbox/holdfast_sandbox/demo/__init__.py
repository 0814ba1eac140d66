"""The main job as a command: real jobs on a sandbox, four reclaims, and proof from the records that none of them was noticed.

`director` runs it, `collection` gathers `evidence`, and everything after that is pure: `checks`, `interruptions`, `costs`, `report`, `svg`.
"""
