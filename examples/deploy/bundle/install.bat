@echo off
rem Installs from this bundle, without a network: install.bat [FOLDER]   (default: C:\defect-serve)
setlocal
set "folder=%~1"
if "%folder%"=="" set "folder=C:\defect-serve"
py -@PYTHON@ --version >nul 2>&1
if %errorlevel% neq 0 (
  echo error: Python @PYTHON@ not found; install it with its launcher "py" 1>&2
  exit /b 1
)
py -@PYTHON@ "%~dp0install.py" "%folder%"
exit /b %errorlevel%
