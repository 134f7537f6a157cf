"""The engine beside other ways to compute the same: peers, interleaved timing, floors, errors against float64."""
