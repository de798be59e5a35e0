"""What one relay is subscribed to, and whether that brings what it should.

`subscriptions` opens what `packer` packs; `check` judges by what sweeps bring, `silence` and `trust` by what follows.
"""
