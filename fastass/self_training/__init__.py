"""Self-training, `--mix`: a teacher labels target images, and pieces of labelled images are pasted.

L_mix is one more separable term of the one scalar. Each step, before the forward of G:

    teacher     labels the clean I_tu               (`teacher`)
    paste       half of a labelled image's classes  (`paste`), chosen by `draw`
    magnify, colour, blur                           (`augment`)

make the mixed batch I_m (`mixer`), whose loss `fastass.method.adaptation` computes. After the
optimizer's step the teacher follows G.
"""
