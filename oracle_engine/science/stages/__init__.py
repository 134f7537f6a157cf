"""The analysis of the two stages: queries along t, what their posteriors say, the report and its figures."""
