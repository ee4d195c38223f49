// fonts.S - the typefaces, byte for byte; CMake gives the files.
    .section .rodata
    .global rv_font_sans, rv_font_bold
    .balign 16
rv_font_sans:
    .incbin RV_FONT_SANS
    .balign 16
rv_font_bold:
    .incbin RV_FONT_BOLD
    .section .note.GNU-stack, "", @progbits
