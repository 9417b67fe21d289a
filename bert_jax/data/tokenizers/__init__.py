"""SentencePiece and WordPiece: encoding, training, saving."""
