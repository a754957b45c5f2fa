"""Inspection of archives on many machines: Ray Data spreads the files, actors inspect them, the results are Parquet."""
