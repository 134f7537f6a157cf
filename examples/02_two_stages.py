"""Where navigation turns into refinement: predicted from the spectrum of the data, and measured."""

import oracle_engine as oe

engine = oe.OracleEngine(oe.load_dataset("digits"))
print(f"predicted: t = {oe.stage_boundary(engine):.3f}")

# with figures: oracle-engine stages --data digits
report = oe.analyse(engine, queries=128, times=[0.1, 0.3, 0.45, 0.5, 0.55, 0.6, 0.8])
print(report)
