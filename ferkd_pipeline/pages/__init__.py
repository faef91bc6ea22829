"""What pages for people are made of: tables, figures and one HTML file that needs no network."""
