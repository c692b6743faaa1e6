"""Accuracy predictors (surrogates): (encoding, top-1 error) -> predictor."""
