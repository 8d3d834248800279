"""Both passes of a network as a table: rules, products with shapes, and their proof."""

from flow.explain.door import explain
from flow.explain.product import Factor, Product, Rule
from flow.explain.puzzle import DimensionPuzzle
from flow.explain.table import Explanation, Row

__all__ = ["DimensionPuzzle", "Explanation", "Factor", "Product", "Row", "Rule", "explain"]
