"""MXNet RecordIO files of faces (.rec), read at random and written without MXNet."""
