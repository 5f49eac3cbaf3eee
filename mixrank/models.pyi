from mixrank.layers import Backbone
from mixrank.layers.models.autoint import AutoInt as AutoInt
from mixrank.layers.models.dcnv2.dcnv2 import DCNv2 as DCNv2
from mixrank.layers.models.dlrm.dlrm import DLRM as DLRM
from mixrank.layers.models.hemix.hemix import HeMix as HeMix
from mixrank.layers.models.hiformer.hiformer import Hiformer as Hiformer
from mixrank.layers.models.mixformer.mixformer import MixFormer as MixFormer
from mixrank.layers.models.mlp_mixer import MLPMixer as MLPMixer
from mixrank.layers.models.mtgr.mtgr import MTGR as MTGR
from mixrank.layers.models.mtmixatt.mtmixatt import MTmixAtt as MTmixAtt
from mixrank.layers.models.rankmixer.rankmixer import RankMixer as RankMixer
from mixrank.layers.models.transformer import Transformer as Transformer
from mixrank.layers.models.wukong.wukong import Wukong as Wukong

# A model that is not listed above.
def __getattr__(name: str) -> type[Backbone]: ...
