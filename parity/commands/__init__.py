"""The commands of the command line, one file for each that has much to say. No logic lives here."""
