"""Jobs: answers to many queries, in units that are done once however often the processes are killed."""
