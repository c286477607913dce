"""From the committed boards and rules to a Grafana: files for its provisioning folder, or calls of its API."""
