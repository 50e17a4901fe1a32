"""Random histories of claims, with every refusal and every acceptance held against the rule in plain Python.

Problem: a scheduler filters by a picture that is almost right, so what the claims must refuse seldom comes to them. A
broken check at commit can hide behind that for thousands of steps.

Idea: small clouds, nearly full; three schedulers that look again seldom, and to whom what others do is not told; and
besides them one that looks at nothing and claims at random, alone or two at the same moment. Hosts fail, shrink, come
back and are added; servers move, grow and go; keys are repeated, for the same and for something else. Each commit goes
through `Watched`, which knows from a model that is a dictionary what must become of it. After every step all claims are
summed up from nothing and held against limits, policies, quotas and the model.

`tests.scheduler.test_booking_histories` runs them, and shows that they find each check missing that is taken away.
"""
