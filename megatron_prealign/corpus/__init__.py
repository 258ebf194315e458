"""Raw text: the files that hold a corpus, and its documents one after the other."""
