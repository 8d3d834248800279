"""Both passes of a network as a table: rules, products with shapes, and their proof."""

from flow._explain.dimension_puzzle import DimensionPuzzle
from flow._explain.explain import explain
from flow._explain.product import Factor, Product, Rule
from flow._explain.table import Explanation, Row

__all__ = ["DimensionPuzzle", "Explanation", "Factor", "Product", "Row", "Rule", "explain"]
