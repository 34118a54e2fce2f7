"""What users would run instead, beside Rootstock in one run. Knows HTTP and processes alone."""
