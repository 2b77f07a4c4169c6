"""What is reported of a run while it trains: metrics, speed, profiles."""
