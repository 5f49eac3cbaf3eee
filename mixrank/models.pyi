from mixrank.layers import Backbone
from mixrank.layers.models.autoint import AutoInt as AutoInt
from mixrank.layers.models.dcnv2.dcnv2 import DCNv2 as DCNv2
from mixrank.layers.models.deepfm import DeepFM as DeepFM
from mixrank.layers.models.dhen import DHEN as DHEN
from mixrank.layers.models.dien.dien import DIEN as DIEN
from mixrank.layers.models.din import DIN as DIN
from mixrank.layers.models.dlrm.dlrm import DLRM as DLRM
from mixrank.layers.models.finalmlp import FinalMLP as FinalMLP
from mixrank.layers.models.hemix.hemix import HeMix as HeMix
from mixrank.layers.models.hiformer.hiformer import Hiformer as Hiformer
from mixrank.layers.models.hyformer.hyformer import HyFormer as HyFormer
from mixrank.layers.models.masknet import MaskNet as MaskNet
from mixrank.layers.models.mixformer.mixformer import MixFormer as MixFormer
from mixrank.layers.models.mlp_mixer import MLPMixer as MLPMixer
from mixrank.layers.models.mtgr.mtgr import MTGR as MTGR
from mixrank.layers.models.mtmixatt.mtmixatt import MTmixAtt as MTmixAtt
from mixrank.layers.models.onetrans.onetrans import OneTrans as OneTrans
from mixrank.layers.models.rankmixer.rankmixer import RankMixer as RankMixer
from mixrank.layers.models.sim import SIM as SIM
from mixrank.layers.models.tokenmixer_large import TokenMixerLarge as TokenMixerLarge
from mixrank.layers.models.transformer import Transformer as Transformer
from mixrank.layers.models.wide_deep import WideDeep as WideDeep
from mixrank.layers.models.wukong.wukong import Wukong as Wukong
from mixrank.layers.models.xdeepfm import XDeepFM as XDeepFM

# A model that is not listed above.
def __getattr__(name: str) -> type[Backbone]: ...
