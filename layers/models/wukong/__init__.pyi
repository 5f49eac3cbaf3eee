from .factorization import FactorizationBlock as FactorizationBlock
from .factorization import TokenProjection as TokenProjection
from .wukong import Wukong as Wukong
