"""Utilities: logging, files, events, communication, drawing."""
