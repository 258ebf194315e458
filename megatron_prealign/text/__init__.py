"""Raw text: files and their documents, languages, tokenizers, their training and their fast encoders."""
