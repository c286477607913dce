"""The dashboards without Grafana: a page on this machine that draws the committed board JSON with the same SQL."""
