"""Makes Prometheus' rules, Grafana's provisioning and dashboards, and the list of alerts in the documentation from one source.

`python -m holdfast_monitoring` writes them; `scripts/monitoring --check` compares them with what is committed.
"""
