"""Looking at teachers before they are asked about every crop: are they right, and if not, why."""
