"""A simulated day against the alert rules: who would have been told what, and was it right?

day.py simulates a scaled Colossus 1 with known causes and brings its events into a store; expect.py says what each
cause must and may tell; rehearse.py runs the rules through the day and compares.
"""
