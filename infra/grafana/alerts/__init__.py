"""Alert rules: one Python table (rules.py) that becomes Grafana's provisioning files, and an evaluator to test it with.

rule.py        what a rule is                       packs/       the rules, a file a pack
sql.py         pieces of SQL that rules share       xid.py       NVIDIA's Xid catalogue, and the views made from it
rules.py       the table: every rule by its name    provision.py the table as Grafana's rule files
template.py    the text templates of annotations    state.py     Grafana's state machine of an alert
evaluate.py    a rule against a store, at any time  notify.py    which people are told what, once

``python -m infra.grafana.alerts.generate`` writes provisioning/*.yaml and the migration of the Xid table; a test keeps
them equal to what the table says. docs/runbooks/NAME.md is the other half of a rule.
"""
