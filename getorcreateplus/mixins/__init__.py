"""
What a call does: the mixins of the querysets, and of the managers.

``base`` has the public methods, divided into steps. ``cached``, ``always`` and
``nonatomic`` each replace other steps, so that they combine in any order.
``invalidating`` has the methods that invalidate rows by hand.

These modules may use everything in the folders below: ``bulk``, ``writes``,
``coherence``, ``lookups`` and ``environment``. The ready-made querysets and
managers, and the tools, build on them. No engine folder imports them.
"""
