"""The service: routes and their bodies, batching across requests, and the page."""
