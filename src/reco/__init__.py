"""ReCo: retrieve and co-segment for zero-shot transfer (Shin, Xie, Albanie, NeurIPS 2022)."""
