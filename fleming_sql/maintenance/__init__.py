"""What is done beside the calls, on a thread of its own: retention, compaction, alerts and their webhooks."""
