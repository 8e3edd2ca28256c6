"""Names of tensors in files that hold no generator of ours → what they are, and what could be used instead."""

from __future__ import annotations

from rewriter.checkpoints import CONDITIONAL

OTHER = "take a StyleGAN2 of such pictures"
STYLEGAN1 = "it is a StyleGAN1: its styles normalise features after the convolution, which is not supported"
PROGGAN = "take GAN Dissection's or GenForce's"
GENERATORS = {
    r"(g_)?synthesis\.(blocks\.|layer\d+\.(style\.dense|apply_noise|epilogue))|(generator\.)?progression\.": STYLEGAN1,
    r"synthesis/.*/(StyleMod|Noise)/": STYLEGAN1,
    r"synthesis/(lod|ToRGB_lod)|synthesis/\d+x\d+/Skip/": "it is a StyleGAN2 of configuration C or D, or residual: "
    "take one of configuration E or F",
    r"synthesis\.b\d+\.skip\.": "its synthesis network is residual, not one with skip connections",
    r"synthesis\.b\d+\.(input\.|convs1\.|\w+\.affine\.proj\.)": f"it is a StyleGAN-T, which draws texts: {OTHER}",
    r"mapping/Label(Concat|Embed)/": CONDITIONAL,
    r"(\d+x\d+|ToRGB_lod\d+)/": f"it is a Progressive GAN of TensorFlow: {PROGGAN} file for PyTorch",
    r"(scaleLayers|formatLayer|groupScale|toRGBLayers)": f"it is PyTorch GAN Zoo's Progressive GAN: {PROGGAN}",
    r"(Model\.)?(MainLayers|AggregationLayer)\.": f"it is an R3GAN: {OTHER}",
    r"synthesis\.(embed\.|feat_\d+\.(conv|bn|noise))": CONDITIONAL,
    r"layers\.\d+\.0\.(0\.|2\.1\.|4\.)": "it is a Lightweight GAN of version 0.21 or later, whose blocks are others: "
    f"{OTHER}",
    r"(GE?|SE?)\.((to_)?initial_(conv|block)|(blocks|layers|net)\.)": "it is lucidrains' StyleGAN2, or a "
    f"Lightweight GAN without its averaged generator: {OTHER}",
    r"to_rgbs\.\d+\.(iwt|dwt)\.": f"it is a SWAGAN, which draws wavelets: {OTHER}",
    r"backbone\.(mapping|synthesis)\.|(renderer|superresolution)\.": f"it is an EG3D, which draws solids: {OTHER}",
    r"shared\.weight|blocks\.\d+\.\d+\.bn\d\.|generator\.(gen_z|layers\.\d+\.bn)": "it is a BigGAN, which is "
    f"conditional: {OTHER}",
}
NO_GENERATORS = {
    r"delta\Z|directions\Z|beside\.": "it is a rule of this package: load its generator, and add the rule with --rule",
    r"stylegan_decoder\.|conv_body_(down|up)\.": "it is a GFPGAN, which restores faces: take the StyleGAN2 in it alone",
    r"encoder\.(input_layer|body|styles)\.": "it is an encoder of photos (pSp, e4e): take the StyleGAN2 it works with",
    r"(model\.diffusion_model|unet|denoise_fn|cond_stage_model)\.|(down_blocks|up_blocks|mid_block|input_blocks|"
    r"output_blocks|middle_block|double_blocks|transformer_blocks|time_embed)\.": f"it is a diffusion model: {OTHER}",
    r"(first_stage_model|quantize|quant_conv|post_quant_conv)\.|(encoder|decoder)\.(down|up|mid|conv_in)": "it is an "
    f"autoencoder (VAE or VQGAN): {OTHER}",
    r"b\d+\.(fromrgb|conv\d?|skip)\.|b4\.(fc|out)\.|convs\.\d+\.(\d+|conv1|conv2|skip)\.|final_(conv|linear)\.|"
    r"conv_body\.\d+\.|input\d+\.(weight|bias)": "it is a discriminator: give the generator's weights (g_ema)",
    r"_downsample_\d+\.|down_from_(big|small)\.": "it is the discriminator of a FastGAN: give the generator's weights",
    r"layer\d\.\d+\.(conv|bn)\d\.": "it is a classifier: give a generator's weights",
    r"(main|model)\.(2|5|8|11|14|17|20)\.": "it has convolutions where a DCGAN's discriminator has them: give the "
    "generator's weights (netG)",
}
