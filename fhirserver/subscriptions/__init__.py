"""Subscriptions: which events match which of them, what is sent, and its delivery until it has arrived.

FHIR R4: subscription; Subscriptions R5 Backport 1.1 for R4; Standard Webhooks 1.0.0.
"""
