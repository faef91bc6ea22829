"""What `ferkd-pipeline teacher check` asks about, and how it tells what was found."""
