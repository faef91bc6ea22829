"""The stages: one package each, and in `stages.shared` what only stages share.

A stage reads the store, writes one kind of artifact, and knows nothing of the stage after it.
Stages never import each other.
"""
