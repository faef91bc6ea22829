"""Training that the stages teacher, train and compare share: data, loss, schedule, loop."""
