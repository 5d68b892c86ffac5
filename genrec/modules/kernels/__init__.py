"""What is written for speed; each module says what it equals, and which test holds it to that."""
