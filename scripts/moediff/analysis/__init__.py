"""What a fitted dictionary is, measured on validation rows and by models run again."""
