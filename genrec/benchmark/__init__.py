"""Models side by side on one data set: trained or fitted, evaluated, and told apart from luck."""
