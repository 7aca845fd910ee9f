"""What people see in a browser: the report, one offline file, and the live page, read-only."""
