"""The loss of conditional flow matching, split into what a model can still learn and what no model can."""

import torch

import oracle_engine as oe

torch.manual_seed(0)
data = oe.load_dataset("digits")
engine = oe.OracleEngine(data)
target = oe.OracleTarget(engine)

source = torch.randint(len(data), (512,))
# a model that has learned nothing but to return the mean picture less the noise
found = oe.oracle_loss(lambda x, t: -x, target, data[source], source=source)
for part in found.terms.stages(oe.stage_boundary(engine)):
    print(f"{part.name:10}  CFM loss {part.conditional:.3f} = {part.oracle:.3f} to learn + V(t) {part.variance:.3f}")
