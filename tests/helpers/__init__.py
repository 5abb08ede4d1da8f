"""What several tests share: sample files and networks, processes that tests start, and slow plain references. No test is in here."""
